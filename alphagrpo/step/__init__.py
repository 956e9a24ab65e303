"""One optimizer step of the loop: drawn, dealt, made into blocks, fed to the learner, timed."""
