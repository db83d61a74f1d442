"""How well a backbone suits a data set, told before it is trained: what is known beforehand, put together. numpy and SciPy, never torch."""
