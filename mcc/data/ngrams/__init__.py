"""How copies of evaluation texts are found and cut out."""
