"""`python -m runtime.cli`."""

from runtime.cli.app import main

if __name__ == "__main__":
    main()
