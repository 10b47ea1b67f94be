"""Grading: from the text of a completion to its verdict, its reward, its advantage and its loss."""
