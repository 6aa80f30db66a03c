"""`python -m service` is `mixformer`."""

import sys

from service.cli import main

sys.exit(main())
