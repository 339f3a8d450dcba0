"""The recorded corpus of short training runs: what the quality model is fitted and judged on.

``design`` says what is run, ``runs`` trains one cell with the code of ``advisor run``, ``record`` keeps the
runs while they are made, and ``tables`` are the files under ``calibration/corpus``.
"""
