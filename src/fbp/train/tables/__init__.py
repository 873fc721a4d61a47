"""Tables: from a file to arrays for a network.

In: a .csv or .npz file. Out: a `Table` of named columns (`_table`, read by `_read`, `_csv` and
`_npz`), and an `Encoding`, which turns its columns into arrays and a network's outputs into
predictions (`_encoding`). `_decide` chooses which columns are numbers, which are categories, and
which rows are held out.
"""
