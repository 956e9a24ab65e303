"""The mesh's own cost: its real control plane over stages that sleep."""
