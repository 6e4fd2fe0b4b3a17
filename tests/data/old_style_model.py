"""A classifier as one wrote them for Keras 2; Keras 3 refuses its optimizer."""

from keras.layers import Dense, Dropout
from keras.models import Sequential
from tensorflow import keras


def model(idim):
    net = Sequential()
    net.add(Dense(48, activation="relu", input_shape=(idim,), name="inputs"))
    net.add(Dropout(0.25))
    net.add(Dense(24, activation="relu"))
    net.add(Dense(1, activation="sigmoid", name="outputs"))
    net.compile(
        optimizer=keras.optimizers.Adam(lr=1e-3),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=["accuracy", keras.metrics.AUC(name="auc")],
    )
    return net
