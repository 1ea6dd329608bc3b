// Shared between a lane's thread and the one that has started it: numbers of 32 bits that wrap.

/** How often the lane has turned. */
export const PULSE_TURNS = 0
/** How many messages of the lane's thread the other one has taken. */
export const PULSE_TAKEN = 1
/** How many messages of the other thread the lane's thread has taken. */
export const PULSE_HEARD = 2
export const PULSE_BYTES = 12
