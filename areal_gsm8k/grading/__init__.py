"""What an answer is worth: from the text of a completion to its reward, its advantage and its loss."""
