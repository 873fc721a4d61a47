"""Cases of public libraries; see `_cases`."""
