"""XGBoost models: boosted over the chunks of a run, in stages."""
