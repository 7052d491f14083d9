package probe

// NewProberEvery is a Prober with times of its own.
var NewProberEvery = newProber
