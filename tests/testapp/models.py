"""Two related models, one that a migration fills, and one with a sequence of its own."""

from django.db import models


class Author(models.Model):
    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Book(models.Model):
    title = models.CharField(max_length=200)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")

    def __str__(self) -> str:
        return self.title


class Genre(models.Model):
    """Its rows come from a data migration."""

    name = models.CharField(max_length=100, unique=True)

    def __str__(self) -> str:
        return self.name


class Invoice(models.Model):
    """Numbered by the sequence `testapp_invoice_number`, which belongs to no column."""

    number = models.BigIntegerField(unique=True)

    def __str__(self) -> str:
        return str(self.number)
