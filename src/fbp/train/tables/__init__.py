"""Tables: from a file to arrays for a network, and where its training begins.

In: a file. Out: a `Table` of named columns (`_table`), and an `Encoding`, which turns its columns
into arrays and a network's outputs into predictions (`_encoding`).

A file is read by its suffix (`_read`): text by `_csv`, in the encodings of `_bytes`, others by
`_npz` and `_frame`. Cells of text become columns in `_read_columns`: what a column holds is decided
in `_form`, from what one cell says (`_cell`, `_dates`). `_decide` chooses the rows that are held
out, the inputs (`_inputs`) and what to do with the target (`_target`), with what is the same label
(`_labels`), and points out columns that give the target away (`_leaks`).

`_folds` deals out the rows to train on, `_line` fits the linear models that networks begin as
(`_start`), and `_scores` says how good their answers are.
"""
