"""Reports of studies without their pictures and pages, which take most of the time."""

DRAWN = ("test", "curves", "cost", "scatter", "sensitivity")


def leave_out(patch, *, pages=True):
    """Draw no picture of a study from now on; nor write a page, if there are to be no `pages`."""
    for name in DRAWN:
        patch.setattr(f"flatmin.study.report.plots.{name}", lambda *arguments: None)
    patch.setattr("flatmin.study.report.forest_plot.draw", lambda *arguments: None)
    if not pages:
        patch.setattr("flatmin.study.report.html.write", lambda *arguments: None)
