"""The rules of a whole program, in place.

In: the program of a loss, and its arguments. Out: where it calls custom rules (`_sites`), what
reaches each call, forwards and backwards (`_harvest`), and the gradient of the whole with some of
its rules in force (`_whole`).
"""
