"""`python -m sixgig` is `sixgig`."""

from sixgig.cli.main import main

main()
