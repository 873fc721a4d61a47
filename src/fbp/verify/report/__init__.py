"""What was found, as values: they hold no arrays and compute nothing.

In: names, verdicts and numbers. Out: the card of `fbp.check` (`_card`), the table of
`fbp.cross_check` (`_cross_check`), the list of `fbp.audit` (`_audit`), and files of reports
(`_json`).
"""
