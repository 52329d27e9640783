"""
Adoption of tables that already exist and that other services keep writing.

Adoption changes nothing that exists. ``survey`` compares the tables with the app's models: it lists what is missing
and what prevents adoption. ``steps`` adds what is missing, one step at a time, waiting at most
a quarter of a second for each lock, and can undo it.
"""
