"""Attribution: signed tokens that tie events to answers, and the counters that they add up to."""
