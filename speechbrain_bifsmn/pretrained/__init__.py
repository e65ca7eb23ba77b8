"""The network that comes with the package; its card is gsc10/README.md.

``FOLDER`` is a trained folder as training writes it: it can be copied
anywhere, loaded with ``KeywordSpotter`` and exported. ``FILE`` is what
``bifsmn export`` made of it.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "gsc10"
FILE = FOLDER / "model.bifsmn"
# Smoothed posterior from which a keyword is believed, see stream.py.
THRESHOLD = 0.7
