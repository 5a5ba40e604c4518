"""Previews: what rules, or a new item, would change in answers, before anything is stored."""
