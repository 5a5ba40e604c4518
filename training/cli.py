"""The command ``etegrec-train``: train, evaluate, publish and retrain models."""

from __future__ import annotations

import sys

from model_store.console import new_app, run
from training.commands import logged_answers, retraining, runs, studies
from training.commands.options import PROGRAM

app = new_app("Train ETEGRec on your own interactions and publish the result as a sealed model version.")

# In the order of the help.
app.command()(runs.prepare)
app.command()(runs.validate)
app.command("run")(runs.run_all)
app.command()(runs.evaluate)
app.command()(studies.ablate)
app.command("new-items")(studies.new_items)
app.command()(runs.report)
app.command()(runs.export)
app.command()(runs.publish)
app.command()(retraining.retrain)
app.command()(retraining.schedule)
app.command()(logged_answers.attribution)
app.command("off-policy")(logged_answers.off_policy)


def main() -> None:
    """Run the command."""
    sys.exit(run(app, PROGRAM))


if __name__ == "__main__":
    main()
