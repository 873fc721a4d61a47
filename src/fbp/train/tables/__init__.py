"""Tables: from a file to arrays for a network.

In: a .csv or .npz file. Out: a `Table` of named columns (`_table`, read by `_read`, `_csv` and
`_npz`); an `Encoding`, which makes arrays of its columns and predictions of a network's outputs
(`_encoding`); and what was decided on the way: which columns are numbers and which categories, and
which rows are held out (`_decide`).
"""
