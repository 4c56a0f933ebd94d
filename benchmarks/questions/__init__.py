"""One file for each question: what is asked, of whom, what should come out, and what does.

A question is a module with a ``TITLE`` and ``ask(laboratory, rounds, quick)``, which returns the parts of
an answer in Markdown.
"""
