"""Language models: from text to a model that continues it.

In: text files, or a folder of weights. Out: a task, which holds tokens and sizes (`_task`), and a
trained model (`_model`). `_recipe` has the optimizer and the metrics, `_train` the training run,
and `_pretrained` reads models in Hugging Face's format.
"""
