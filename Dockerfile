# docker build -t lr-tuner .
# docker run --rm -it -v "$PWD:/work" --user "$(id -u):$(id -g)" lr-tuner
# The second command runs the quickstart; its results are in the current folder. More: docs/deployment.md
FROM python:3.11-slim

WORKDIR /opt/lr-tuner
COPY pyproject.toml README.md LICENSE ./
COPY lightning_modules lightning_modules
COPY tuner tuner
COPY studies studies
RUN pip install --no-cache-dir ".[postgresql,ray,system-metrics]"

# Any user can run it: --user may name one without an entry or a home folder in the image.
RUN mkdir -m 777 /home/tuner /work
ENV HOME=/home/tuner USER=tuner LOGNAME=tuner PYTHONUNBUFFERED=1
WORKDIR /work
CMD ["python", "-m", "tuner.study"]
