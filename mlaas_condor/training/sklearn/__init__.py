"""scikit-learn estimators: trained part by part where they can, else on all events, in stages."""
