"""The pack's nodes: schema, tooltips, and one call into `scedit_core` each."""
