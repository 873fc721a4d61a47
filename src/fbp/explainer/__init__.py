"""What a model is made of, and what happens in a step of it.

`_summary` is a table of the layers, their outputs, parameters and what is kept, from shapes alone.
`_explain` has every number of a step: `_spies` wraps each layer, `_notes` brings what they note out
of the compiled program, from inside scans too. `_rule` reads a layer's equations in its docstring,
`_written` writes one number as the sum that made it, `_text` shows all of it in a terminal.
`_page` makes a page of it, of the parts in page/: `_page_rows` says what is in a layer,
`_page_named` and `_page_loss` name its arrays, and `_page_arrays` cuts them to what fits;
`_page_update` adds what the optimizer did, `_page_training` the run that the step is of.
`_learn` makes the page to learn from, of the parts in learn/, `_learn_fits` the steps that it
compares its own with, and `_learn_gpt` its small GPT.
"""

from fbp.explainer._explain import Explanation as Explanation
from fbp.explainer._explain import explain as explain
from fbp.explainer._summary import Summary as Summary
from fbp.explainer._summary import summary as summary
