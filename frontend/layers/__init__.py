"""What `treadle.nn` gives, a chapter per file; the names users write are in `frontend/nn.py`."""
