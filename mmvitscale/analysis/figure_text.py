"""Names in figures, as they are: matplotlib takes what is between two ``$`` for a formula, and leaves a curve whose name begins
with ``_`` out of the legend."""


def literal(name: object) -> str:
    """A name for a title, a tick or a legend of matplotlib."""
    text = str(name).replace('$', r'\$')
    return f' {text}' if text.startswith('_') else text
