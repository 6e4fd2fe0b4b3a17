"""Keras models, of Keras 3 and of Keras 2: trained by one TensorFlow function a pass."""
