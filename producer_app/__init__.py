"""The sample clinic application: business rows and outbox rows in one transaction."""
