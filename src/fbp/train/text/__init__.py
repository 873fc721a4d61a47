"""Language models: from text to a model that continues it.

In: files of text, or a folder of weights. Out: a task, which is tokens and sizes (`_task`); how it
is trained (`_recipe`, `_train`); the model with its tokenizer (`_model`); and a folder of another
library's weights as such a model (`_pretrained`).
"""
