"""What a study is: the study file, its space, resources and expectations, and how they are checked."""
