"""`python -m crate_jax COMMAND ...`."""

import sys

from crate_jax.cli.main import main

sys.exit(main())
