"""Finds the custom rules that a whole program calls.

In: the program of a loss, and its arguments. Out: where it calls custom rules (`_sites`), the
inputs and cotangents of each call (`_harvest`), each call as a subject to check (`_calls`), and the
gradient of the whole program with only some of its rules in use (`_whole`).
"""
