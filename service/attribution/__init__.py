"""Attribution: the signed token of each answer, and what events say about answers."""
