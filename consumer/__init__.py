"""What happens after a message was polled: apply it to OpenEMR, mark the outbox row, commit the offset."""
