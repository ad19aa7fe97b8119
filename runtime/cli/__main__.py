"""`python -m runtime.cli`."""

from runtime.cli import interrupts

if __name__ == "__main__":
    interrupts.listen()
    from runtime.cli.app import main

    main()
