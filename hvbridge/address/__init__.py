"""Addresses as people write them: endpoints, where clients come from, and which address may stand where."""
