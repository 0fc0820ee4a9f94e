//! Pure conversions to the model.
