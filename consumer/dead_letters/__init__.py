"""Dead letters for people: find, read, replay, export and discard messages that could not be events.

Everything here runs beside the consumers, at any time: what counts goes through the steps of a live batch, under the
same locks. `consumer.flood` decides when there are too many; `consumer.rollup.graveyard` buries them.
"""
