"""
Tables that somebody else has made and goes on writing: how the app comes by what it needs of them.

Nothing that is there is changed. ``survey`` says what is lacking and what is in the way; ``steps`` adds what is
lacking, one thing at a time, without keeping a writer waiting for more than half a second, and can take it back.
"""
