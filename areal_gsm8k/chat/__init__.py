"""`gsm8k chat`: several models answer one prompt side by side, token by token, and are graded on the spot.

session.py     what is asked, of whom and how; the commands
chat_model.py  one model and its engine; reply.py: what it said to one question
view.py        replies on the screen; terminal_safe.py: none of their characters may steer the terminal
repl.py        the prompt, or lines from a pipe
rows.py        the rows that /q asks; trained_with.py: how a run of ours was asked in training: the default
"""
