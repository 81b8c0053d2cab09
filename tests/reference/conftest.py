collect_ignore = ["make_tensorflow_table.py"]  # it imports TensorFlow, which the tests do without
