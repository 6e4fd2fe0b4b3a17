"""ttH, with the Higgs decaying to bottom quarks, against ttbar and QCD: a small network."""

import keras
from keras import layers


def model(idim):
    """Return the compiled network for ``idim`` columns."""
    network = keras.Sequential(
        [
            keras.Input((idim,), name="inputs"),
            layers.BatchNormalization(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.4),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(1, activation="sigmoid", name="score"),
        ]
    )
    network.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-3),
        loss="binary_crossentropy",
        metrics=[keras.metrics.AUC(name="auc")],
    )
    return network
