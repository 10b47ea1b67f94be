"""`gsm8k chat`: several models answer one prompt side by side, token by token, and are graded on the spot.

session.py     the conversation: models, settings, questions and commands
chat_model.py  one model and its engine; reply.py: its reply to one question
view.py        replies on the screen; terminal_safe.py: no character of a reply may steer the terminal
repl.py        the prompt, or lines from a pipe
rows.py        the rows that /q asks; trained_with.py: the prompt settings of a run, the default
"""
