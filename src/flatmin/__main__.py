"""`python -m flatmin`, and `torchrun -m flatmin`."""

from flatmin.cli import main

if __name__ == "__main__":
    main()
