"""Results of checks, as values that hold no arrays and compute nothing.

In: names, verdicts and numbers. Out: the card of `fbp.check` (`_card`), the table of
`fbp.cross_check` (`_cross_check`), the page of `fbp.audit` (`_audit`), and report files
(`_json`).
"""
