"""`./run bench [--quick] [--json] [NAME ...]`."""

from tests.bench.run import main

if __name__ == "__main__":
    main()
