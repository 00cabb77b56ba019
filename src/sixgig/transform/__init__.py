"""Steps that change a model: planting, splitting into Base and Ortho, fitting the Ortho part."""
